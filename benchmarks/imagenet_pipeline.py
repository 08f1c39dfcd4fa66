"""How fast is the ImageNet example's input, beside a bare tf.data loop?

Reads, crops and scales the prepared training images in turn by
examples/imagenet/data.py and by the least that tf.data can do, and prints
images per second and core, and their ratio:

    python benchmarks/imagenet_pipeline.py --data_dir=DIR --rounds=9

Images of full size (about 500x400 pixels) tell most.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

import tensorflow as tf  # noqa: E402

from imagenet import data as imagenet_data  # noqa: E402


def bare(paths, features, size, batch):
    """Read, decode a random part, scale, batch: no more."""

    def one(serialized):
        record = features.deserialize_example(serialized)
        corner, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(record["image"]),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            aspect_ratio_range=imagenet_data.ASPECT_RANGE,
            area_range=imagenet_data.AREA_RANGE,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([corner[:2], extent[:2]], axis=0)
        jpeg = record["image"]
        image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3)
        return tf.image.resize(image, (size, size)), record["label"]

    images = tf.data.TFRecordDataset(paths, num_parallel_reads=tf.data.AUTOTUNE)
    images = images.map(one, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch).prefetch(tf.data.AUTOTUNE)


def images_per_second(dataset, cores):
    """By wall and by CPU time of the process, after the first batch."""
    batches = iter(dataset)
    next(batches)
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    for _, labels in batches:
        count += len(labels)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return count / wall / cores, count / cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--corrupt_images", default="report")
    args = parser.parse_args()
    builder = imagenet_data.prepared_builder(args.data_dir)
    data = imagenet_data.ImageNet(
        builder=builder,
        image_size=args.image_size,
        seed=0,
        corrupt_images=args.corrupt_images,
    )
    import tensorflow_datasets as tfds

    features = type(builder.info.features)(
        {
            **builder.info.features,
            "image": tfds.features.Text(),
        }
    )
    paths = [str(p) for p in builder.info.splits["train"].filepaths]
    cores = len(os.sched_getaffinity(0))
    makers = {
        "bare": lambda i: bare(paths, features, args.image_size, args.batch),
        "example": lambda i: data.train(i, args.batch),
    }
    found = {name: [] for name in makers}
    for i in range(args.rounds + 1):
        for name, make in sorted(makers.items(), reverse=bool(i % 2)):
            speed = images_per_second(make(i), cores)
            if i:  # the first round warms up
                found[name].append(speed)
    print(f"{'':8} {'images/s and core':>18} {'by CPU time':>12}")
    for name, speeds in found.items():
        wall, cpu = map(statistics.median, zip(*speeds, strict=True))
        print(f"{name:8} {wall:18.0f} {cpu:12.0f}")
    for k, kind in enumerate(("wall", "CPU")):
        ratios = [
            own[k] / least[k]
            for own, least in zip(found["example"], found["bare"], strict=True)
        ]
        print(
            f"ratio by {kind} time: {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()

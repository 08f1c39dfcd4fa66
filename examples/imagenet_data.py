"""Prepares ImageNet (ILSVRC2012) for training, and looks at every image.

    python examples/imagenet_data.py --data_dir=DIR

Where its two official files are missing, it says where they come from and
where they belong. It names the images that cannot be decoded.
"""

from absl import app
from absl import flags

from imagenet import data as imagenet_data


def main(_):
    given = flags.FLAGS
    try:
        builder = imagenet_data.prepared_builder(
            given.data_dir, given.manual_dir
        )
    except imagenet_data.DataError as error:
        raise app.UsageError(str(error)) from None
    data = imagenet_data.ImageNet(builder=builder, image_size=32, seed=0)
    for split in ("train", "validation"):
        count = data.images(split)
        print(f"Looks at {count} images of the {split} split", flush=True)
        corrupt = list(data.names_of_corrupt(split))
        for name in corrupt:
            print(f"cannot be decoded: {name}")
        print(f"{count - len(corrupt)} of {count} images are intact")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "tensorflow-datasets' folder.")
    flags.DEFINE_string("manual_dir", None, "The folder of the two tars.")
    app.run(main)

"""One stage of the ImageNet program: the float or the quantized network.

Its folder holds config.json, log.csv, events for TensorBoard, checkpoints/
and, at the end, model.keras and result.json.
"""

import csv
import pathlib

import keras
import numpy as np
import tensorboardX
import tensorflow as tf

import keras_bcgd
from imagenet import data as imagenet_data
from training import checkpoints as checkpoint_files
from training import recipes
from training import replicas
from training import resumable
from training import start_from_float
from training import strategies
from training import warm_up
from training import workdir as workdirs


class Stage:
    """A stage with its data, on a strategy.

    Args:
        path: Path of its folder.
        config: Dict of its settings.
        builder: The prepared `tfds.core.DatasetBuilder`.
        strategy: `tf.distribute.Strategy`.
        start: Path of the float network to start from, or `None`.
        corrupt_images: String; see `imagenet.data.ImageNet`.
    """

    def __init__(
        self, path, config, builder, strategy, start, corrupt_images="report"
    ):
        self.path = pathlib.Path(path)
        self.config = config
        self.strategy = strategy
        self.start = start
        self.is_chief = strategies.is_chief(strategy)
        self.workers = strategies.workers(strategy)
        self.model_path = self.path / "model.keras"
        self.data = imagenet_data.ImageNet(
            builder=builder,
            image_size=config["image_size"],
            seed=config["seed"],
            deterministic=config["deterministic"],
            corrupt_images=corrupt_images,
            shuffle_images=config["shuffle_images"],
        )
        # Of each machine.
        self.batch_size = config["batch_size"] // self.workers
        self.host = host = imagenet_data.Host(
            strategies.index(strategy), self.workers
        )
        self.steps_per_epoch = (
            self.data.images("train", host) // self.batch_size
        )
        self.test_steps = -(
            -self.data.images("validation", host) // self.batch_size
        )

    def check(self):
        """Raises a `ValueError` if a setting cannot be: before hours pass."""
        if not self.steps_per_epoch:
            raise ValueError(
                f"--batch_size={self.config['batch_size']} is more than there "
                "are training images"
            )
        self._compile(self.make_model())

    def train(self, resume, checkpoint_minutes, keep_checkpoints):
        """Trains, from the start or from the last checkpoint, to the end.

        Raises:
            The errors of `RunFolder`, `Checkpoints` and `Run`.
        """
        folder = None
        if self.is_chief:
            folder = workdirs.RunFolder(self.path, self.config, resume)
        checkpoints = checkpoint_files.Checkpoints(
            self.path / "checkpoints", keep_checkpoints
        )
        self._check_same_files(checkpoints)
        if (self.path / "result.json").exists():
            return
        # The order of the images, too, depends on it.
        keras.utils.set_random_seed(self.config["seed"])
        model, state = self._begin(checkpoints)
        self._check_same([state.epoch, state.step])
        self._take_from_chief(model)
        writer = tensorboardX.SummaryWriter(
            str(self.path),
            # Its queue must hold what an epoch writes: on a full disk nobody
            # empties it, and the next checkpoint says so.
            max_queue=100_000,
            purge_step=state.epoch + 1,
            write_to_disk=self.is_chief,
        )
        run = resumable.Run(
            replicas.Replicas(
                model, self.strategy, self.config["batch_size"], self._prepare
            ),
            state,
            checkpoints,
            train_batches=self._train_batches,
            test_batches=self._test_batches,
            epochs=self.config["epochs"],
            steps_per_epoch=self.steps_per_epoch,
            test_steps=self.test_steps,
            minutes=checkpoint_minutes,
            is_chief=self.is_chief,
            workers=self.workers,
            callbacks=[
                keras_bcgd.QuantizationMonitor(writer),
                EpochLog(self.path / "log.csv", writer, state.history),
            ],
        )
        with writer:
            try:
                run.train()
            except tf.errors.InvalidArgumentError as error:
                self._explain(error, run.state)
                raise
        if self.is_chief:
            folder.finish(model, self._result(run.state.history))
        run.wait_for_all()

    def make_model(self):
        """The network, not yet trained."""
        size = self.config["image_size"]
        return keras_bcgd.models.resnet18(
            classes=imagenet_data.CLASSES,
            input_shape=(size, size, 3),
            norm_synchronized=self.config["sync_batch_norm"],
            **recipes.network_options(self.config),
        )

    def _begin(self, checkpoints):
        """The model and the `State` of the last checkpoint, or new ones."""
        with self.strategy.scope():
            found = checkpoints.load_last()
        for damaged in checkpoints.damaged:
            print(f"{damaged}: the checkpoint before it is used", flush=True)
        if found is not None:
            model, state = found
            state = resumable.State(**state)
            print(
                f"Goes on after step {state.step} of epoch {state.epoch + 1}",
                flush=True,
            )
            return model, state
        weights = self._first_weights() if self.start else None
        with self.strategy.scope():
            model = self.make_model()
            if weights is not None:
                model.set_weights(weights)
            self._compile(model)
        return model, resumable.State()

    def _check_same_files(self, checkpoints):
        """Raises if the machines do not see one folder: before hours pass."""
        strategies.total(self.strategy, 0)  # the chief's files are there now
        folders = checkpoints.folders()
        self._check_same(
            [
                (self.path / "config.json").exists(),
                (self.path / "result.json").exists(),
                float(folders[-1].name) if folders else -1,
            ]
        )

    def _check_same(self, numbers):
        if not strategies.are_same(self.strategy, numbers):
            raise workdirs.WorkdirError(
                f"The machines do not find the same files in {self.path}: "
                "--workdir must be on a disk that all of them share"
            )

    def _take_from_chief(self, model):
        """Makes the chief's numbers those of all machines.

        Each has computed its alphas, perhaps on another processor.
        """
        if self.workers == 1:
            return
        with self.strategy.scope():
            for variable in model.variables + model.optimizer.variables:
                own = keras.ops.convert_to_numpy(variable)
                numbers = strategies.of_chief(self.strategy, own)
                variable.assign(numbers.astype(own.dtype))

    def _first_weights(self):
        """Those of the float network, with alphas that fit them."""
        model = self.make_model()
        try:
            float_model = keras.models.load_model(self.start, compile=False)
            start_from_float.start_from_float(
                model,
                float_model,
                self.calibration_images(),
                self.config["alpha_start"],
            )
        except (ValueError, OSError) as error:
            raise workdirs.WorkdirError(
                f"{self.start} is no float network to start from: {error}"
            ) from error
        return model.get_weights()

    def _compile(self, model):
        schedule = recipes.make_schedule(self.config, self.steps_per_epoch)
        warm_up_steps = round(
            self.config["warmup_epochs"] * self.steps_per_epoch
        )
        if warm_up_steps:
            schedule = warm_up.WarmUp(schedule, warm_up_steps)
        model.compile(
            recipes.make_optimizer(
                self.config,
                schedule,
                self.config["epochs"] * self.steps_per_epoch,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.optimizer.build(model.trainable_variables)

    def _explain(self, error, state):
        """Raises a clearer error if an image cannot be decoded.

        It is looked for among this machine's that were to come next, and
        among the validation images.
        """
        if "jpeg" not in error.message.lower():
            return
        first = state.step * self.batch_size
        for names in (
            self.data.names_of_corrupt("train", state.epoch, first, self.host),
            self.data.names_of_corrupt("validation"),
        ):
            for name in names:
                raise imagenet_data.DataError(
                    f"{name} cannot be decoded. --corrupt_images=skip leaves "
                    "such images out; python examples/imagenet_data.py looks "
                    "at all. The checkpoints are intact."
                ) from error

    def _prepare(self, images):
        return imagenet_data.normalize(images, self.config["normalization"])

    def calibration_images(self):
        """Some training images, as the network sees them."""
        count = self.config["calibration_images"]
        images, _ = next(iter(self.data.validation(count, split="train")))
        return self._prepare_all(images)

    def validation_images(self, count):
        """The first validation images, as the network sees them, and labels."""
        count = min(count, self.data.images("validation"))
        images, labels = next(iter(self.data.validation(count)))
        known = labels.numpy() >= 0
        return self._prepare_all(images)[known], labels.numpy()[known]

    def _prepare_all(self, images):
        """An array; not at once, as there may be thousands for a GPU."""
        parts = range(0, len(images), 250)
        return np.concatenate(
            [self._prepare(images[i : i + 250]).numpy() for i in parts]
        )

    def _train_batches(self, epoch, first_step):
        return self._distribute(
            lambda host, batch_size, on_host: self.data.train(
                epoch, batch_size, host, first_step * on_host
            )
        )

    def _test_batches(self):
        return self._distribute(
            lambda host, batch_size, on_host: self.data.validation(
                batch_size, host
            )
        )

    def _distribute(self, make):
        def on_host(context):
            host = imagenet_data.Host(
                context.input_pipeline_id, context.num_input_pipelines
            )
            # Replicas of a machine take one batch after another.
            size = context.get_per_replica_batch_size(self.config["batch_size"])
            return make(host, size, self.batch_size // size)

        distribute = self.strategy.distribute_datasets_from_function
        return iter(distribute(on_host))

    def _result(self, history):
        top1 = [entry["val_top1"] for entry in history]
        best = int(np.argmax(top1))
        return {
            "config": self.config,
            "train_images": self.data.images("train"),
            "validation_images": history[-1]["val_images"],
            "top1_last": top1[-1],
            "top5_last": history[-1]["val_top5"],
            "top1_best": top1[best],
            "best_epoch": best + 1,
            "seconds": sum(
                entry["seconds"] + entry["val_seconds"] for entry in history
            ),
            "replicas": strategies.describe(self.strategy),
            "machine": workdirs.machine(),
        }


class EpochLog(keras.callbacks.Callback):
    """Writes what came out of each epoch to log.csv and to TensorBoard.

    Args:
        path: Path of the .csv file, written anew after each epoch.
        writer: A summary writer.
        history: List of dicts, of the epochs before.
    """

    def __init__(self, path, writer, history):
        super().__init__()
        self.path = path
        self.writer = writer
        self.history = list(history)

    def on_train_begin(self, logs=None):
        if self.history:  # killed before the last row, perhaps
            workdirs.write_whole(self.path, self._write)

    def on_epoch_end(self, epoch, logs=None):
        self.history.append(logs)
        workdirs.write_whole(self.path, self._write)
        for name, value in logs.items():
            self.writer.add_scalar(f"epoch/{name}", value, epoch + 1)
        self.writer.flush()

    def _write(self, path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, list(self.history[-1]))
            rows.writeheader()
            rows.writerows(self.history)

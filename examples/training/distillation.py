"""A network as the student of a float one, by keras.distillation.

Needs Keras 3.12 or newer. The loss is (1 - weight) times the student's own plus
weight times the temperature squared times the divergence of the two softmaxes
of logits / temperature (Hinton et al., 2015).
"""

import os

import keras


def check(config):
    """Raises a `ValueError` if there is no teacher, or Keras is too old."""
    if not config["distillation_weight"]:
        return
    if not hasattr(keras, "distillation"):
        raise ValueError(
            "--distillation_weight needs Keras 3.12 or newer. Installed: "
            f"{keras.__version__}"
        )
    path = config["teacher"] or config["init_from"]
    if path is None:
        raise ValueError(
            "--distillation_weight needs a --teacher, or an --init_from to be "
            "it: the model.keras of a float network"
        )
    if not os.path.exists(path):
        raise ValueError(f"--teacher: there is no file {path}")


def make_trained(student, config):
    """What is trained: a Distiller, or the student itself at weight 0.

    Args:
        student: `keras.Model`, not compiled.
        config: Dict with `distillation_weight`, `temperature` and the paths
            `teacher` and `init_from`, of which the first that is given counts.
    """
    weight = config["distillation_weight"]
    if not weight:
        return student
    path = config["teacher"] or config["init_from"]
    teacher = keras.models.load_model(path, compile=False)
    return keras.distillation.Distiller(
        teacher,
        student,
        keras.distillation.LogitsDistillation(
            # The string "kl_divergence" compares logits without a softmax.
            config["temperature"],
            loss=keras.losses.KLDivergence(),
        ),
        student_loss_weight=1 - weight,
    )


def load(path, compile_model):
    """A Distiller of a file, ready to go on: Keras does not compile it.

    Args:
        path: Path of the .keras file.
        compile_model: Function that compiles a model as it was.
    """
    distiller = keras.models.load_model(path, compile=False)
    compile_model(distiller)
    distiller.optimizer.build(distiller.trainable_variables)
    distiller.load_weights(path)
    return distiller


def student_of(trained):
    """The network of what was trained, with its optimizer and shadows."""
    student = getattr(trained, "student", None)
    if student is None:
        return trained
    student.compile(
        trained.optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return student

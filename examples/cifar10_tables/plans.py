"""The plans of the CIFAR-10 tables: schedules that all of their runs share."""

import dataclasses

from cifar10_tables import cells
from cifar10_tables import levers


@dataclasses.dataclass(frozen=True)
class Plan:
    """A schedule.

    Args:
        text: String, what stands beside every result.
        train_images: Int.
        float_epochs: Int, of the float network that quantization starts from.
        quantized_epochs: Int.
        float_learning_rate: Float, of the float networks.
        seeds: Tuple of ints, of most runs.
        more_seeds: Tuple of ints, further ones of 1W4A BC and BCGD. Defaults
            to none.
        all_gradients: Boolean, all columns of the two tables with other alpha
            derivatives, not 1W4A alone. Defaults to `False`.
        test_every: Int, the epochs from one test to the next, but for 1W4A BC
            and BCGD, whose curves are drawn. Defaults to `1`.
        levers: Boolean, the runs of `levers`, not those of the slides' tables.
            Defaults to `False`.
        float_seeds: Tuple of ints, of the float networks that levers start
            from; the quantized ones take them in turn. Defaults to `seeds`.
    """

    text: str
    train_images: int
    float_epochs: int
    quantized_epochs: int
    float_learning_rate: float
    seeds: tuple
    more_seeds: tuple = ()
    all_gradients: bool = False
    test_every: int = 1
    levers: bool = False
    float_seeds: tuple = ()


PLANS = {
    "paper": Plan(
        "the paper's schedule: 50,000 images, 200 float and 200 quantized "
        "epochs",
        train_images=50000,
        float_epochs=200,
        quantized_epochs=200,
        float_learning_rate=0.1,
        seeds=(0,),
        more_seeds=(1, 2),
        all_gradients=True,
    ),
    "reduced": Plan(
        "REDUCED schedule: the first 5,000 training images, 10 float epochs "
        "from a learning rate of .02 and 4 quantized ones from .01",
        train_images=5000,
        float_epochs=10,
        quantized_epochs=4,
        # From .1 on, some seeds are lost in so few steps.
        float_learning_rate=0.02,
        seeds=(0, 1),
        more_seeds=(2,),
        test_every=2,
    ),
    "beyond": Plan(
        "the paper's schedule: 50,000 images, 200 float and 200 quantized "
        "epochs",
        train_images=50000,
        float_epochs=200,
        quantized_epochs=200,
        float_learning_rate=0.1,
        seeds=(0, 1, 2),
        levers=True,
    ),
    "levers": Plan(
        "REDUCED schedule: 200 float epochs of all 50,000 images, then one "
        "quantized epoch of the first 25,600, 200 steps",
        train_images=25600,
        float_epochs=200,
        quantized_epochs=1,
        float_learning_rate=0.1,
        seeds=(0, 1),
        levers=True,
        float_seeds=(0,),
    ),
}


def runs(plan, net):
    """All runs of a plan for one network, those first that others need.

    Args:
        plan: `Plan`.
        net: String, a network of the slides' tables.

    Returns:
        List of `Run`s.
    """
    return (levers if plan.levers else cells).runs(plan, net)

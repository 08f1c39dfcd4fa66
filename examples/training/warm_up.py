"""A learning rate that starts low, for large batches."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_bcgd_examples")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, reached linearly from 0 in the first steps.

    Args:
        schedule: `LearningRateSchedule`.
        steps: Int above 0, when it is reached.

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677)
    """

    def __init__(self, schedule, steps):
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step):
        rate = self.schedule(step)
        share = (ops.cast(step, rate.dtype) + 1) / self.steps
        return rate * ops.minimum(share, 1)

    def get_config(self):
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["steps"])

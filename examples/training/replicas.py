"""One training or test step on all replicas of a `tf.distribute` strategy.

Keras' `fit` does not run on several machines; this does, and it is the same
code on one device.
"""

import math

import keras
import tensorflow as tf

# What a step sums up, over images.
SUMS = ("loss", "top1", "top5", "images")


class Replicas:
    """The steps of a classifier.

    A label below 0 is none: its image counts for nothing.

    Args:
        model: Compiled `keras.Model` with logits as output, made or loaded in
            the strategy's scope.
        strategy: `tf.distribute.Strategy`.
        batch_size: Int, images in a step on all replicas together.
        prepare: Function from a batch as it is read to the model's input.
    """

    def __init__(self, model, strategy, batch_size, prepare):
        self.model = model
        self.strategy = strategy
        self.batch_size = batch_size
        self.prepare = prepare

    @tf.function
    def train(self, images, labels):
        """One step of the optimizer.

        Returns:
            Tensor of shape `(4,)`, the `SUMS` over the batch.
        """
        sums, averages = self.strategy.run(
            self._train_on_replica, args=(images, labels)
        )
        if self.strategy.num_replicas_in_sync > 1:
            self._share(averages)
        return self.strategy.reduce("SUM", sums, axis=None)

    @tf.function
    def test(self, images, labels):
        """Returns the `SUMS` over the batch, without training."""
        sums = self.strategy.run(self._test_on_replica, args=(images, labels))
        return self.strategy.reduce("SUM", sums, axis=None)

    def _train_on_replica(self, images, labels):
        variables = self.model.trainable_variables
        optimizer = self.model.optimizer
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            # The optimizer sums gradients over the replicas.
            loss = tf.reduce_sum(_losses(labels, logits)) / self.batch_size
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        if isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            gradients = _not_finite_on_all_or_none(gradients)
        optimizer.apply(gradients, variables)
        averages = [tf.reshape(v, [-1]) for v in self._averages()]
        return _sums(labels, logits), tf.concat(averages, axis=0)

    def _test_on_replica(self, images, labels):
        return _sums(labels, self._logits(images, training=False))

    def _logits(self, images, training):
        logits = self.model(self.prepare(images), training=training)
        return tf.cast(logits, max(logits.dtype, tf.float32, key=_size))

    def _averages(self):
        """The averages of batch normalization."""
        return [
            variable
            for variable in self.model.non_trainable_variables
            if tf.as_dtype(variable.dtype).is_floating
        ]

    def _share(self, averages):
        """Makes the averages of batch normalization those of all replicas.

        Keras leaves each replica its own, of its own part of the batches.
        """
        mean = self.strategy.reduce("MEAN", averages, axis=None)
        sizes = [math.prod(v.shape) for v in self._averages()]
        for variable, part in zip(
            self._averages(), tf.split(mean, sizes), strict=True
        ):
            variable.assign(tf.reshape(part, variable.shape))


def _size(dtype):
    return dtype.size


def _not_finite_on_all_or_none(gradients):
    """Gradients that are NaN everywhere if some replica's are not finite.

    Keras leaves a step out whose gradients overflow, but it asks one replica
    only, or each its own.
    """
    is_finite = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    )
    context = tf.distribute.get_replica_context()
    overflows = context.all_reduce("SUM", tf.cast(~is_finite, tf.float32))
    return [
        tf.where(overflows > 0, tf.constant(math.nan, g.dtype), g)
        for g in gradients
    ]


def _losses(labels, logits):
    """The cross entropy of each image, 0 where there is no label."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(labels, 0), logits
    )
    return tf.where(labels >= 0, losses, 0)


def _sums(labels, logits):
    logits = tf.cast(logits, tf.float32)
    counts = labels >= 0
    found = [_losses(labels, logits)]
    for k in (1, 5):
        is_hit = tf.math.in_top_k(tf.maximum(labels, 0), logits, k)
        found.append(tf.logical_and(is_hit, counts))
    found.append(counts)
    return tf.stack([tf.reduce_sum(tf.cast(f, tf.float64)) for f in found])

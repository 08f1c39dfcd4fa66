"""What went wrong within TensorFlow, in words."""

import re
import traceback

import tensorflow as tf

# What TensorFlow's messages contain.
_OF_MEMORY = r"\bOOM\b|memory"
_OF_DATA = r"\.tfrecord-|corrupted record|truncated record"
_OF_OTHERS = (
    "failed to connect|connection (refused|reset|closed|timed out)|"
    "socket closed|heartbeat|error received from peer|remote process exited"
)


def explain(error, workers):
    """What went wrong within TensorFlow, in words; a traceback if unknown."""
    kind, message = type(error), error.message
    if kind is tf.errors.ResourceExhaustedError:
        cause = _line(message, _OF_MEMORY) or message
        return (
            f"There is not enough memory: {cause}\n"
            "Give a smaller --batch_size, and another --workdir if this one "
            "has checkpoints."
        )
    if _line(message, _OF_DATA):
        return (
            f"A file of the data cannot be read: {_line(message, _OF_DATA)}\n"
            "The checkpoints are intact: bring the file back and give the same "
            "command again."
        )
    is_gone = kind in (tf.errors.UnavailableError, tf.errors.AbortedError)
    if workers > 1 and (is_gone or _line(message, _OF_OTHERS)):
        return (
            "Another machine does not answer any more: "
            f"{_line(message, _OF_OTHERS) or message}\n"
            "This one ends, too. Start the command on all machines again: they "
            "go on from the last checkpoint."
        )
    return "".join(traceback.format_exception(error))


def _line(message, pattern):
    """The line of a message that matters, if there is one."""
    found = re.search(f".*({pattern}).*", message, re.IGNORECASE)
    return found and found[0]

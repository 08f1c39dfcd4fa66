"""TFLite files: written, read, run, inspected, timed."""

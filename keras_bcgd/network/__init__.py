"""The one reader of Keras models: their layers, calls and graph."""

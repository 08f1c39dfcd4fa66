"""The one reader of Keras models.

- `traits`: what is known of each class of layers, one table per question.
- `functional`: the serialized graph of a functional model.
- `calls`: the calls of layers, models within the model opened, as they run.
- `graph`: the same by layer, with what reads what: for planning a conversion.
- `trained`: the numbers that training left in a layer, checked.
- `frugal`: runs a model and keeps no tensor for longer than it is read.
- `model_layers`: layers by their paths, and their calls while a model runs.
"""

"""The classes that `ai_edge_litert` generates from the schema of TFLite."""

INSTALL = "pip install keras-bcgd[export]"


def load_schema():
    """The module of schema classes.

    Raises:
        ImportError: If `ai_edge_litert` or `flatbuffers` is not installed.
    """
    try:
        import flatbuffers as _  # noqa: F401
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "TFLite files are written and run by `ai-edge-litert`, which is "
            f"not installed. Install it with `{INSTALL}`."
        ) from error
    return schema_py_generated

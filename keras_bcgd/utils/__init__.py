"""Arguments, batches, text and files: what every folder needs.

- `checks`: arguments that several functions take.
- `batches`: batches from arrays, datasets and other iterables.
- `tables`: columns of text; `progress_bar`: a bar for long work.
- `files`: written whole or not at all; `user_files`: those a user names.
"""

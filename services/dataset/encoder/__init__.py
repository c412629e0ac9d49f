"""The process that holds the embedding model, and all that is allowed torch in the dataset service.

It is told to encode over standard input and answers over standard output (`services.dataset.vectors.encoder` is the
other end). It ends with its parent.
"""

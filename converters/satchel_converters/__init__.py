"""From a Hugging Face model to an artifact: source, capture, compress, and one file per format."""

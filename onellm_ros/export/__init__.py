"""Models as ONNX graphs: what `onellm export` writes."""

"""New images: predictions, archives, ONNX export and a page in the browser."""

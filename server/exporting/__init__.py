"""An adapter as files that load without privet: merged, ONNX, ONNX in int8, sentence-transformers; each checked."""

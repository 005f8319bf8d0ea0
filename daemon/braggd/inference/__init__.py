"""Networks through ONNX Runtime, and what stands in for them."""

"""`genac doctor`: whether a recipe fits a machine, estimated from shapes. No model is loaded."""

"""Models and predictions for other machines: model files, Kaggle's offline machine."""

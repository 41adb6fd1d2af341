"""What makes the models: pretrained weights, training, evaluation and export. Nothing here runs while serving."""

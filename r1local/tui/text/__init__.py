"""What is done to text before it is drawn. Knows no widgets, so all of it is tested without a screen."""

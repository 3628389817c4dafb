"""What makes a reasoning model's reply more than text: where its thought begins and ends."""

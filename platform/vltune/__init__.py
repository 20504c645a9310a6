"""The engine of vltune: searches, trains, records and compares; it knows nothing of pictures or text."""

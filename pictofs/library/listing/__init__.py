"""What exists: datasets, directories and images, and for how long a listing of them is believed."""

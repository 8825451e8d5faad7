"""What is fetched before somebody asks for it."""

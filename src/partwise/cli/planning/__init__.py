"""What `partwise plan` is made of: options become a problem, plans become text, JSON and files."""

"""The torch runner: the modules that transformers ships, for just the layers of one part."""

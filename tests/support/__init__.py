"""What several tests share: parts as threads, links pumped by hand, the one-process oracle."""

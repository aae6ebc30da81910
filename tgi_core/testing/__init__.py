"""What third parties may import in their tests."""

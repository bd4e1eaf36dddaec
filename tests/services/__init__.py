"""Tests of the services; a package, so that its `conftest` stands beside the other, and not in its place."""

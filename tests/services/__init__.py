"""Tests of the services. A package, so that its `conftest` is loaded in addition to the other one."""

"""The stages of a build, a module for each (docs/DESIGN.md, Build)."""

"""The money of a mesh as runs may see it: that of their task's tenant."""

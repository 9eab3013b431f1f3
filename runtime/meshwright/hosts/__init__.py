"""Hosts: what runs the actors. Each fills the port of `meshwright.host`."""

"""Assembly: hosts, fronts and model reports, joined by `meshwright.app`."""

"""Tools of agents; `meshwright.tools` is what authors import."""

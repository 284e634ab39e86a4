"""From a grid file to its cells: keys, axes and values read, and what is wrong with them said with its line."""

"""One coordinate system: voxel axes (i, j, k), affines to RAS+ millimetres of voxel centres. numpy and scipy only."""

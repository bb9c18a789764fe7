"""Networks whose features the measures use: how a file becomes one, and the definitions of I3D and VGGish."""

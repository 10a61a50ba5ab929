"""What every stage shares: the dataclasses that flow, errors, cameras, rotations, neighbours, robust kernels.

Nothing here opens a data file. Import the modules themselves (`from dyn4d.core.types import Camera`): this
package file stays empty so that reading the configuration or the help text never imports torch.
"""

"""Where networks run: devices, and the back ends that run a network on them."""

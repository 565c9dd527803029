"""The page of ``lcr-edge run --web``: what the cameras show, what the network says, and a button to reset a state."""

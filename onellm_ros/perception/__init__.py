"""From messages to words without ROS: what the node and an offline replay have in common."""

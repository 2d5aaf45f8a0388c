"""What the three workers share: the loop, its pace and its log. They never import one another."""

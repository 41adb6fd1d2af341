"""How models and index travel through an object store to the machines that serve them."""

//! What a reply must show to be believed.

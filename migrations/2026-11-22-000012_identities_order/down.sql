DROP INDEX identities_order_idx;

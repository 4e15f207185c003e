"""All that knows the insides of Faust and aiokafka."""

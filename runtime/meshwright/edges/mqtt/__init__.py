"""The MQTT edge: any MQTT 5 client gives the mesh tasks, follows them and sees who is there."""

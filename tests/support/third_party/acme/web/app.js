const shown = document.getElementById("events");
new EventSource("/events/stream").onmessage = (event) => { shown.textContent = event.data; };

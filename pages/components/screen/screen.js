// Tells whether the window is narrow: the server cannot know, and the menu must not take a tablet's room.

export default function mount({ data, setStateValue }) {
  const width = window.innerWidth < data.wide_px ? "narrow" : "wide";
  // The cookie spares the next page load the moment in which the menu would be seen closing.
  document.cookie = `${data.cookie}=${width}; path=/; max-age=31536000; samesite=lax`;
  if (width !== (data.known ?? "wide")) setStateValue("width", width);
}

// Bar-code scanners end with Enter: the focus then goes on to the next field, as Tab would.

export default function mount({ data, parentElement }) {
  const inputs = () => data.keys.map((key) => document.querySelector(`.st-key-${CSS.escape(key)} input`)).filter(Boolean);
  const onKey = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    const chain = inputs();
    const at = chain.indexOf(event.target);
    if (at < 0) return;
    // Streamlit takes the value on Enter by itself; the focus goes on after that.
    setTimeout(() => {
      const next = chain[at + 1] ?? document.querySelector(`.st-key-${CSS.escape(data.after)} button`);
      next?.focus();
      next?.select?.();
    }, 0);
  };
  if (parentElement.scanning) document.removeEventListener("keydown", parentElement.scanning, true);
  parentElement.scanning = onKey;
  document.addEventListener("keydown", onKey, true);
  // A new form begins at its first field, also after the button of the last one was pressed.
  if (parentElement.chain !== data.keys[0] && document.activeElement?.tagName !== "INPUT") inputs()[0]?.focus();
  parentElement.chain = data.keys[0];
  return () => document.removeEventListener("keydown", parentElement.scanning, true);
}

// Many files as one: a tar archive made of slices of the files, of which nothing is read before it is sent. The same
// files give the same archive, so that an upload of a folder goes on after a break as that of one file does. In it the
// files are named by numbers, where a format does not ask for more: their own names may hold the patient's.

const BLOCK_BYTES = 512;
const OCTAL_BYTES = 8 * 1024 ** 3; // eleven octal digits say no more of one file
const WHOLE = /\.(zip|tar|nii|nii\.gz)$/i; // studies of their own
const CLUTTER = /(^|\/)(\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini)(\/|$)/;

function tarHeader(name, bytes) {
  const header = new Uint8Array(BLOCK_BYTES);
  const put = (at, text) => header.set(new TextEncoder().encode(text), at);
  put(0, name);
  put(100, "0000600\0"); // who may read it
  put(108, "0000000\0");
  put(116, "0000000\0");
  if (bytes < OCTAL_BYTES) put(124, `${bytes.toString(8).padStart(11, "0")}\0`);
  else {
    header[124] = 0x80; // then the size in bytes
    for (let at = 135, left = bytes; left > 0; at -= 1, left = Math.floor(left / 256)) header[at] = left % 256;
  }
  put(136, "00000000000\0"); // when it was changed: the same for all
  put(148, "        ");
  put(156, "0");
  put(257, "ustar\x0000");
  put(148, `${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `);
  return header;
}

const byPath = (one, other) => (one.path < other.path ? -1 : one.path > other.path ? 1 : 0); // as on every computer
const counted = (files) => `${files} ${files === 1 ? "file" : "files"}`;
const numbered = (picked) => picked.map(({ file }, index) => ({ name: String(index + 1).padStart(6, "0"), file }));

// An archive of `entries`, a list of { name, file }, which is shown as `called`.
function packed(called, entries) {
  const parts = entries.flatMap(({ name, file }) => [tarHeader(name, file.size), file, new Uint8Array(-file.size & (BLOCK_BYTES - 1))]);
  const archive = new Blob([...parts, new Uint8Array(2 * BLOCK_BYTES)]);
  archive.name = called;
  archive.lastModified = entries.reduce((latest, { file }) => Math.max(latest, file.lastModified), 0);
  return archive;
}

// What is uploaded of CT for `picked`, a list of { path, file }: studies that are one file as they are, all others as one.
function studiesOf(picked) {
  const some = picked.filter(({ path, file }) => file.size > 0 && !CLUTTER.test(path));
  const uploads = some.filter(({ path }) => WHOLE.test(path)).map(({ file }) => file);
  const rest = some.filter(({ path }) => !WHOLE.test(path)).sort(byPath);
  if (!rest.length) return uploads;
  const folders = new Set(rest.map(({ path }) => (path.includes("/") ? path.split("/")[0] : "")));
  const [folder] = folders;
  const counts = counted(rest.length);
  const name = folders.size === 1 && folder ? `${folder} (${counts})` : rest.length === 1 ? rest[0].file.name : counts;
  return [...uploads, packed(name, numbered(rest))];
}

// The files of what was dropped, those in folders with their paths.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // before the first wait
  if (!entries.length) return [...transfer.files].map((file) => ({ path: file.name, file }));
  const picked = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      picked.push({ path: entry.fullPath.replace(/^\//, ""), file });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a hundred at a time
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of entries) await walk(entry);
  return picked;
}

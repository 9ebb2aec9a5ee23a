// Which files are a slide: told by what they are, so that several slides of one file each stay several. A .mrxs with the
// folder of its name is one slide, and the DICOM files of a folder are one; both are sent as an archive.

const SINGLE = /\.(svs|ndpi|scn|bif|svslide|tiff?|btf|tf8|png|jpe?g|webp|bmp)$/i;
const MRXS = /\.mrxs$/i;
const MRXS_INDEX = /(^|\/)Slidedat\.ini$/i;
const MRXS_DATA = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/; // of the folder's files: the server takes no other names
const DIRECTORY = /(^|\/)DICOMDIR$/i;

const folderOf = (path) => path.slice(0, path.lastIndexOf("/") + 1);
// The name of a .mrxs alone tells what it is; in it is a picture of the glass, which may name the patient.
const standIn = ({ name, lastModified }) => new File(["MRXS"], name, { lastModified });
const isDicom = async (file) => (await file.slice(128, 132).text()) === "DICM";

// For `picked`, a list of { path, file }: the uploads, what is refused at once as { file, words }, and what to say of it.
async function slidesOf(picked) {
  const left = new Set(picked.filter(({ path, file }) => !path.includes("/") || (file.size > 0 && !CLUTTER.test(path))));
  const take = (which) => {
    const taken = [...left].filter(which).sort(byPath);
    taken.forEach((one) => left.delete(one));
    return taken;
  };
  const several = [];
  const refused = [];
  for (const { path, file } of take((one) => MRXS.test(one.path))) {
    const folder = path.replace(MRXS, "/");
    const data = take((one) => one.path.startsWith(folder) && MRXS_DATA.test(one.path.slice(folder.length)));
    const entries = data.map((one) => ({ name: `slide/${one.path.slice(folder.length)}`, file: one.file }));
    if (data.length) several.push(packed(`${file.name} (${counted(data.length + 1)})`, [{ name: "slide.mrxs", file: standIn(file) }, ...entries]));
    else refused.push({ file, words: "The folder of the same name, with the slide's data, is missing. Drop both together, or choose the folder that holds both." });
  }
  for (const { path, file } of take((one) => MRXS_INDEX.test(one.path))) {
    const folder = folderOf(path);
    const data = take((one) => one.path.startsWith(folder) && /\.(dat|ini)$/i.test(one.path));
    const size = data.reduce((sum, one) => sum + one.file.size, file.size);
    const name = folder.split("/").at(-2) ?? file.name;
    refused.push({ file: { name, size, lastModified: 0 }, words: "This is the folder of an MRXS slide, without the .mrxs file. Drop both together, or choose the folder that holds both." });
  }
  const dicom = new Set();
  for (const one of left) if (!SINGLE.test(one.path) && (await isDicom(one.file))) dicom.add(one);
  take((one) => dicom.has(one) && DIRECTORY.test(one.path));
  const levels = take((one) => dicom.has(one));
  for (const folder of new Set(levels.map(({ path }) => folderOf(path)))) {
    const files = levels.filter(({ path }) => folderOf(path) === folder);
    const called = folder.split("/").at(-2);
    several.push(packed(called ? `${called} (${counted(files.length)})` : `DICOM (${counted(files.length)})`, numbered(files)));
  }
  const others = take(({ path }) => path.includes("/") && !SINGLE.test(path)).length;
  const said = [];
  if (several.length) said.push(`Taken as one slide${several.length > 1 ? " each" : ""}: ${several.map(({ name }) => name).join(", ")}.`);
  if (others) said.push(`Left out, being no ${several.length ? "part of a " : ""}slide: ${counted(others)} of the folder.`);
  return { uploads: [...several, ...[...left].map(({ file }) => file)], refused, said: said.join(" ") };
}

// Files that are dropped go the way of those that are chosen: to the upload button's own input, which the button makes and keeps
// to itself, and which is therefore met where the button clicks on it. `this` is the zone, `event` the drop.
event.preventDefault();
event.stopPropagation();
this.classList.remove('over');
const files = event.dataTransfer.files, kind = HTMLInputElement.prototype;
if (files.length) {
  kind.click = function () {
    delete kind.click;
    this.files = files;
    this.dispatchEvent(new Event('change'));
  };
  this.closest('.pmc2-explore').querySelector('.pmc2-upload').click();
}
